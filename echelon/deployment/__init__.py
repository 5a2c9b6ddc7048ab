"""Deployments: credentials, and a whole one on this machine over the loopback interface."""
