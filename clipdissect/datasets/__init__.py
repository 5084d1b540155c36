"""Files of known data sets: class names, CIFAR, Places365, Broden's labels, WordNet."""
