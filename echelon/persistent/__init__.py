"""Persistent workers: a trainer process keeps torch, data and model loaded between messages."""
