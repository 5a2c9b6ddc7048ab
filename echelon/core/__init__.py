"""What a run is made of on either host, without Flower: work policies and SGD settings."""
