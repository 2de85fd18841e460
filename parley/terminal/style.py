"""What the classes of the rows look like: sixteen colours at most, in each terminal's own palette."""

from __future__ import annotations

from prompt_toolkit.styles import Style

STYLE = Style.from_dict(
    {
        "title": "reverse bold",
        "status": "reverse",
        "status.bad": "reverse ansired bold",
        "day": "ansibrightblack",
        "notice": "ansibrightblack italic",
        "time": "ansibrightblack",
        "name.own": "bold",
        "name.0": "ansigreen bold",
        "name.1": "ansiyellow bold",
        "name.2": "ansiblue bold",
        "name.3": "ansimagenta bold",
        "name.4": "ansicyan bold",
        "name.5": "ansired bold",
        "deleted": "ansibrightblack italic",
        "failed": "ansired",
        "mark.pending": "ansibrightblack",
        "mark.sent": "ansibrightblack",
        "mark.delivered": "ansibrightblack",
        "mark.read": "ansicyan bold",
        "mark.failed": "ansired bold",
        "list": "",
        "list.open": "reverse",
        "list.unread": "bold ansiyellow",
        "border": "ansibrightblack",
        "note": "ansicyan",
        "prompt": "bold",
    }
)
