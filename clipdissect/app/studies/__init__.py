"""Tables, figures and printed summaries of the studies: a module per experiment."""
