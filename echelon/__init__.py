"""Straggler-proof, leader-weighted, resource-aware training for Flower and PyTorch."""
