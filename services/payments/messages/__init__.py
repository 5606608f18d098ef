"""Between the model and protobuf."""
