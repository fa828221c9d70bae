"""The collections of the loopback Hub: create one, read it, add a model; titles are unique to an owner."""

import hashlib
import json
import re
from typing import Any

from loopback_store import Refusal

DATE = "2026-01-01T00:00:00.000Z"


def create(handler: Any, body: bytes) -> None:
    asked = json.loads(body)
    _authorize(handler, asked["namespace"])
    if not 0 < len(asked["title"]) < 60 or len(asked.get("description", "")) > 150:
        raise Refusal(400, "", "title or description is too long")
    digest = hashlib.sha1(asked["title"].encode()).hexdigest()[:24]
    words = re.sub(r"\W+", "-", asked["title"].lower()).strip("-")
    slug = f"{asked['namespace']}/{words}-{digest}"
    if slug in handler.hub.collections:
        handler._json({"error": "This collection already exists", "slug": slug}, 409)
        return
    facts = dict(slug=slug, title=asked["title"], description=asked.get("description"), private=asked["private"])
    facts |= dict(owner={"name": asked["namespace"]}, items=[], lastUpdated=DATE, position=0, theme="blue", upvotes=0)
    handler.hub.collections[slug] = facts
    handler._json(facts)


def read(handler: Any, body: bytes, slug: str) -> None:
    handler._json(_collection(handler, slug))


def add_item(handler: Any, body: bytes, slug: str) -> None:
    _authorize(handler, slug.partition("/")[0])
    asked, collection = json.loads(body), _collection(handler, slug)
    item = asked["item"]
    if item["type"] != "model" or item["id"] not in handler.hub.repos:
        raise Refusal(404, "", f"there is no {item['type']} {item['id']}")
    if item["id"] in [each["id"] for each in collection["items"]]:
        raise Refusal(409, "", "Item already in collection")
    place = len(collection["items"])
    collection["items"].append(
        dict(_id=f"{place:024x}", id=item["id"], type="model", position=place, note={"text": asked.get("note", "")})
    )
    handler._json(collection)


def _collection(handler: Any, slug: str) -> dict[str, Any]:
    if slug not in handler.hub.collections:
        raise Refusal(404, "", "Collection not found")
    return handler.hub.collections[slug]


def _authorize(handler: Any, owner: str) -> None:
    if not handler.user:
        raise Refusal(401, "", "Invalid username or password.")
    if owner not in ("ORG", "user"):
        raise Refusal(403, "", f"You don't have the required permissions in {owner}")


_SLUG = r"([^/]+/[^/]+)"
ROUTES = [
    ("POST", r"/api/collections", create),
    ("GET", rf"/api/collections/{_SLUG}", read),
    ("POST", rf"/api/collections/{_SLUG}/items", add_item),
]
