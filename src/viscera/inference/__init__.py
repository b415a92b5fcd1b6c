"""A scan -> its label map on exactly the scanner's grid: model, slices, windows, post-processing, files in and files out."""
