"""Our own compact family."""
