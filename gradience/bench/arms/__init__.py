"""Ways of making an adapter from the probe, controls among them."""
