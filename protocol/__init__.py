"""What both ends agree on, byte for byte: topics, messages, codecs and chunks."""
