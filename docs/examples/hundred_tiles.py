"""Serve a page of 100 images, to load through a proxy and check that it arrives complete.

    python hundred_tiles.py [PORT]

The server listens on loopback and prints its address, then a line for each page that reports that all of its images
have loaded. The page shows the text after `?` in the address.
"""

from __future__ import annotations

import colorsys
import contextlib
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

TILES = 100

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>A hundred tiles</title>
<link rel="icon" href="data:,">
<style>
  body { font: 17px sans-serif; width: 640px; margin: 24px auto; color: #223; background: #fafaf7 }
  h1 { font-size: 28px; margin: 0 }
  p { margin: 8px 0 18px }
  code { background: #e8e8f0; padding: 1px 6px; border-radius: 4px }
  #tiles { display: grid; grid-template-columns: repeat(10, 1fr); gap: 6px }
  img { width: 100%%; border-radius: 8px; display: block }
</style>
<h1><span id="count">0</span> of %(tiles)d loaded</h1>
<p>each with its own request, through <code id="proxy">an unnamed proxy</code></p>
<div id="tiles"></div>
<script>
  let count = 0;
  if (location.search) document.getElementById("proxy").textContent = decodeURIComponent(location.search.slice(1));
  for (let number = 0; number < %(tiles)d; number++) {
    const tile = new Image();
    tile.onload = () => {
      document.getElementById("count").textContent = ++count;
      if (count === %(tiles)d) fetch("/done?" + count);
    };
    tile.src = "/tile/" + number + ".svg";
    document.getElementById("tiles").append(tile);
  }
</script>
"""

TILE = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 40">
  <rect width="40" height="40" fill="%s"/>
  <text x="20" y="26" font-family="sans-serif" font-size="15" text-anchor="middle" fill="#fff">%d</text>
</svg>
"""


def tile(number: int) -> str:
    """Draw the image of a number, with a unique colour."""
    colour = colorsys.hls_to_rgb(number / TILES, 0.52, 0.55)
    return TILE % ("#" + "".join(f"{round(255 * part):02x}" for part in colour), number + 1)


class Handler(BaseHTTPRequestHandler):
    """Serve the page, its images, and the reports of complete pages."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer a request."""
        address = urlsplit(self.path)
        first, _, rest = address.path[1:].partition("/")
        if first == "tile":
            self.answer("image/svg+xml", tile(int(rest.removesuffix(".svg"))))
        elif first == "done":
            print(f"loaded: {address.query} of {TILES}", flush=True)
            self.answer("text/plain", "")
        else:
            self.answer("text/html; charset=utf-8", PAGE % {"tiles": TILES})

    def answer(self, kind: str, text: str) -> None:
        """Send a complete response that is not cached, so that a reload fetches it again."""
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        """Do not log requests."""


def main() -> None:
    """Serve until Ctrl-C."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8000
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        print(f"http://localhost:{server.server_port}/", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


if __name__ == "__main__":
    main()
