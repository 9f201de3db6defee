// The page: its buttons, keys and colours. Photos come in by sources.js; photos.js sends and shows them.

import { choose } from "./choose.js";
import { $ } from "./dom.js";
import { copy, keep } from "./exports.js";
import { hide, update } from "./list.js";
import { refresh, remove, show, view, work } from "./photos.js";
import "./sources.js";
import { fit, magnify, middle, pan } from "./stage.js";
import { desk, off, photos, visible } from "./state.js";

for (const tab of document.querySelectorAll("[role=tab]")) {
  tab.onclick = () => view(tab.id.slice(4));
  tab.onkeydown = (event) => {
    if (!event.key.startsWith("Arrow")) return;
    const other = tab.nextElementSibling ?? tab.previousElementSibling;
    event.stopPropagation();
    other.focus();
    other.click();
  };
}

$("score").oninput = () => { desk.least = $("score").value / 100; update(); };
$("every").onclick = () => { off.clear(); for (const one of desk.photo.instances) one.hidden = false; update(); };
for (const id of ["tint", "fill", "tagged"]) {
  $(id).onclick = () => {
    const on = $(id).getAttribute("aria-pressed") !== "true";
    $(id).setAttribute("aria-pressed", on);
    if (id === "tint") desk.byClass = on;
    if (id === "fill") $("drawing").classList.toggle("bare", !on);
    update();
  };
}
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.onclick = () => (Number(button.dataset.zoom) ? magnify(Number(button.dataset.zoom), ...middle()) : fit());
}
$("again").onclick = () => { desk.photo.state = "waiting"; refresh(desk.photo); work(); };
$("drop").onclick = () => remove(desk.photo);

// theme: as the system has it, or as chosen here
const themes = ["auto", "light", "dark"];
function theme(name) {
  document.documentElement.dataset.theme = name;
  $("theme").ariaLabel = $("theme").title = `Colours: ${name === "auto" ? "as the system" : name}`;
  try { localStorage.setItem("maskrcnn-theme", name); } catch { /* a private window */ }
}
let remembered = null;
try { remembered = localStorage.getItem("maskrcnn-theme"); } catch { /* a private window */ }
theme(themes.includes(remembered) ? remembered : "auto");
$("theme").onclick = () => theme(themes[(themes.indexOf(document.documentElement.dataset.theme) + 1) % 3]);

// keys
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !desk.photo || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input") || document.body.dataset.view !== "instances") return;
  const onStage = event.target === $("stage"), inList = event.target.closest("#list"), one = desk.chosen ?? desk.hovered;
  const step = (by) => {
    const seen = visible(desk.photo);
    if (!seen.length) return;
    const next = seen[(seen.indexOf(one) + by + (one ? 0 : by < 0 ? 1 : 0) + seen.length) % seen.length];
    desk.chosen = null;
    choose(next);
    next.row.firstChild.focus();
  };
  const other = (by) => show(photos[(photos.indexOf(desk.photo) + by + photos.length) % photos.length]);
  const keys = {
    "+": () => magnify(1.25, ...middle()), "=": () => magnify(1.25, ...middle()), "-": () => magnify(0.8, ...middle()), 0: fit,
    "[": () => other(-1), "]": () => other(1), Escape: () => choose(null),
    ...(onStage ? { ArrowLeft: () => pan(50, 0), ArrowRight: () => pan(-50, 0), ArrowUp: () => pan(0, 50), ArrowDown: () => pan(0, -50) }
      : { ArrowDown: () => step(1), ArrowUp: () => step(-1) }),
    ...(one && (inList || onStage || event.target === document.body) ? { h: () => hide(one), c: () => copy(one), s: () => keep(one) } : {}),
  };
  const action = keys[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!action) return;
  event.preventDefault();
  action();
});
