"""Texts that several seeds share."""

import base64
import json
from typing import Final

OWNER: Final = "0x" + "ab" * 20
OTHER: Final = "0x" + "cd" * 20
PIN: Final = "sha256:" + "5a" * 32
REACH: Final = (
    f"vpn.example.org:51820,tls://vpn.example.org:443?sni=x.example&pin={PIN},tcp://[2001:db8::1]:80"
)
URI: Final = (
    "data:application/json;base64," + base64.b64encode(json.dumps({"endpoint": REACH}).encode()).decode()
)
PLAIN_URI: Final = 'data:application/json,{"name":"%41","endpoint":"192.0.2.1:51820"}'
