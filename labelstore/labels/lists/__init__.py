"""Images' lists of likely classes: what is fitted."""
