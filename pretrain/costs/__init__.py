"""What encoders and training steps cost, in parameters, computation, memory and time."""
