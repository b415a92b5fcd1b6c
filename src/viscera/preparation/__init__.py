"""A scan -> a case of a store: turned, resampled, cut to the body, its labels in the label space; and the way back."""
