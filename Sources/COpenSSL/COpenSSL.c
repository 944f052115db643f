// Inline wrappers live in the header; a target needs one source file.
