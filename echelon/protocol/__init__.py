"""What server and worker say to each other in Flower messages."""
