"""From rewards to the loss: pure functions of flat tensors, and the configuration that names them."""
