"""Find settings: the space, successive halving over runs of ``fit``, and the confirmation of the winner."""
