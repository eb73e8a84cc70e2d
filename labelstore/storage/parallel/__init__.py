"""Work that is done beside other work: in threads, in forks, and in processes that forks ask."""
