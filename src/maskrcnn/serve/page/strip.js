// The small pictures of all photos below the large one.

import { $, icon, make, plural } from "./dom.js";
import { desk, visible } from "./state.js";

export async function tile(photo) {
  let item = document.querySelector(`#strip [data-id="${photo.id}"]`);
  if (!item) {
    const button = make("button", { type: "button", className: "photo" }, make("canvas", { width: 176, height: 132 }), make("span"));
    const away = make("button", { type: "button", className: "away icon", ariaLabel: `Remove ${photo.name}` }, icon("close"));
    item = make("li", {}, button, away);
    item.dataset.id = photo.id;
    $("strip").append(item);
    createImageBitmap(photo.file, { resizeWidth: 240 }).then((bitmap) => cover(button.firstChild, bitmap, bitmap.width, bitmap.height), () => {});
  }
  const button = item.firstChild, words = { waiting: "waits", working: "is looked at", failed: "failed" };
  const seen = photo.state === "done" ? visible(photo).length : null;
  item.className = { waiting: "wait", working: "wait", failed: "bad" }[photo.state] ?? "";
  button.lastChild.textContent = photo.state === "failed" ? "!" : seen ?? "";
  button.ariaLabel = `${photo.name}: ${words[photo.state] ?? plural(seen, "instance")}`;
  button.setAttribute("aria-current", photo === desk.photo);
}

function cover(canvas, source, w, h) {
  const k = Math.max(canvas.width / w, canvas.height / h);
  canvas.getContext("2d").drawImage(source, (canvas.width - k * w) / 2, (canvas.height - k * h) / 2, k * w, k * h);
}
