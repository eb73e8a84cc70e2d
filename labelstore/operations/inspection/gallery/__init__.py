"""What the page of ``labelstore inspect --report`` shows."""
