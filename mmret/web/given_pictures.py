"""Pictures that a visitor pastes or drops anywhere on the search page, and the browser's back and forward: its one script.

A file goes the way of the upload box, with its limits. A picture of the page itself is named by its id. What another site's page
shows is not fetched, only what the browser hands over as a file.
"""

from __future__ import annotations

import json

STYLE = """
.body-drop-zone { display: none; position: fixed; inset: 8px; z-index: 7000; border: 3px dashed #4078c0; border-radius: 12px;
  background: rgba(244, 248, 252, .88); align-items: center; justify-content: center; font-size: 1.2rem; color: #24292f;
  pointer-events: none; }
body.dropping .body-drop-zone { display: flex; }
"""

EVENTS = ("picture_named", "picture_refused", "address_changed")
"""Global events of the page: the id of one of its own pictures was dropped; something that is no picture was; the address's
parameters after back or forward."""

_SCRIPT = """
(() => {
  const refuse = () => emitEvent("picture_refused", "");
  const upload = (file) => {
    const uploader = getElement(UPLOADER).$refs.qRef;
    uploader.reset();
    uploader.addFiles([file]);
  };
  const picture = (files) => [...files].find((file) => file.type.startsWith("image/"));
  const take = (files) => { const found = picture(files); found ? upload(found) : refuse(); };

  document.addEventListener("paste", (event) => {
    const typing = event.target.closest && event.target.closest("input, textarea");
    const found = picture(event.clipboardData.files);
    if (!found && !event.clipboardData.files.length) return;
    if (typing && event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    found ? upload(found) : refuse();
  });

  let inside = 0;
  const show = () => document.body.classList.toggle("dropping", inside > 0);
  const carries = (event) => ["Files", "text/uri-list"].some((type) => event.dataTransfer.types.includes(type));
  document.addEventListener("dragenter", (event) => { if (carries(event)) { inside += 1; show(); } }, true);
  document.addEventListener("dragleave", (event) => { if (carries(event)) { inside = Math.max(0, inside - 1); show(); } }, true);
  document.addEventListener("dragover", (event) => { if (carries(event)) event.preventDefault(); }, true);
  document.addEventListener("drop", (event) => {
    inside = 0;
    show();
    if (!carries(event)) return;
    event.preventDefault();
    event.stopPropagation();
    const address = event.dataTransfer.getData("text/uri-list").split("\\n").find((line) => line && !line.startsWith("#")) || "";
    const own = address.startsWith(location.origin) && /(?:\\/pictures\\/|[?&]image=)([0-9a-f]{32})(?![0-9a-f])/.exec(address);
    own ? emitEvent("picture_named", own[1]) : take(event.dataTransfer.files);
  }, true);

  window.addEventListener("popstate", () => emitEvent("address_changed", location.search));
})();
"""


def script(uploader: int) -> str:
    """JavaScript for a page whose ``ui.upload`` has the id ``uploader``, to run once its elements are there."""
    return _SCRIPT.replace("UPLOADER", json.dumps(uploader))
