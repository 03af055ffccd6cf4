"""What the functions of the package `stylefinetune` do; import them from there."""
