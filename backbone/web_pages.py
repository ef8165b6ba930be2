"""What servers send in place of a file that they do not give: a web page."""


def is_web_page(start: bytes) -> bool:
    """Whether a file that starts so, with some hundred bytes, is a web page or XML."""
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return text.startswith((b"<!doctype", b"<html", b"<head", b"<body", b"<?xml"))
