"""What two services or more use. Nothing here imports a service."""
