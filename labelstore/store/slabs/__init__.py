"""An epoch's labels in memory, once a machine."""
