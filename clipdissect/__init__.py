"""Label the hidden neurons of a vision network with free text, without training."""
