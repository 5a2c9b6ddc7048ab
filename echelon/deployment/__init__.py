"""Deployment: credentials, and a complete deployment on this machine over the loopback interface."""
