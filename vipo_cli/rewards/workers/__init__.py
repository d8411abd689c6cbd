"""Scripts that run inside the environments of upstream packages; nothing of vipo imports them."""
