"""Threads, sockets, files and the sample store."""
