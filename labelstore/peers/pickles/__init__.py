"""Pickles and files of ``torch.save``, read without executing anything of them."""
