// The list beside the picture, and all that score, classes, colours and hiding decide.

import { choose, hover, mark, rove } from "./choose.js";
import { $, draw, icon, make, percent, plural } from "./dom.js";
import { copy, keep } from "./exports.js";
import { label } from "./stage.js";
import { dark, desk, off, photos, summary, tint, visible } from "./state.js";
import { tile } from "./strip.js";

export function rows(photo) {
  $("list").replaceChildren(...photo.instances.map((one) => {
    const preview = make("canvas", { width: 80, height: 80 });
    const bar = make("i"), pick = make("button", { type: "button", className: "pick", tabIndex: -1 },
      preview, make("span", {}, make("b", { textContent: one.name }), bar), make("em", { textContent: percent(one.score) }));
    bar.style.setProperty("--v", percent(one.score));
    pick.ariaLabel = `${one.name}, ${percent(one.score)}, ${plural(one.area, "pixel")}`;
    pick.onclick = () => choose(one);
    const dye = make("input", { type: "color", ariaLabel: `Colour of ${one.name}`, title: "Colour" });
    dye.oninput = () => { one.dyed = dye.value; update(); };
    const act = (name, words, action, kind = "") => {
      const button = make("button", { type: "button", className: "icon " + kind, ariaLabel: words, title: words }, icon(name));
      button.onclick = action;
      return button;
    };
    const acts = make("div", { className: "acts" }, make("label", { className: "dye" }, dye),
      act("copy", "Copy cut-out", () => copy(one)), act("save", "Download cut-out", () => keep(one)),
      act("eye", "Hide", () => hide(one), "hide"));
    one.row = make("li", {}, pick, acts);
    one.row.dataset.id = one.id;
    one.dye = dye;
    one.row.onpointerenter = (event) => { if (event.pointerType === "mouse") hover(one, false); };
    one.row.onpointerleave = () => hover(null);
    pick.onfocus = () => { if (pick.matches(":focus-visible")) hover(one, false); };
    pick.onblur = () => hover(null);
    if (photo.small) thumbnail(preview, photo, one);
    return one.row;
  }), make("li", { className: "none" }));
}

function thumbnail(canvas, photo, one) {
  const [x1, y1, x2, y2] = one.box, context = canvas.getContext("2d"), f = photo.small.width / photo.width;
  const k = 76 / Math.max(x2 - x1, y2 - y1, 1);
  context.translate(40 - k * (x1 + x2) / 2, 40 - k * (y1 + y2) / 2);
  context.scale(k, k);
  context.clip(new Path2D(one.d), "evenodd");
  context.drawImage(photo.small, x1 * f, y1 * f, (x2 - x1) * f, (y2 - y1) * f, x1, y1, x2 - x1, y2 - y1);
}

export function chips(photo) {
  const counts = new Map();
  for (const one of photo.instances) counts.set(one.label, one.name);
  const labels = [...counts].sort((a, b) => a[0] - b[0]);
  $("classes").replaceChildren(...labels.map(([label, name]) => {
    const chip = make("button", { type: "button" }, name, make("em"));
    chip.dataset.label = label;
    chip.onclick = () => { off.has(label) ? off.delete(label) : off.add(label); update(); };
    return chip;
  }));
}

// Everything that score, classes, colours and hiding decide; asks the server nothing.
export function update() {
  $("least").textContent = `${$("score").value}%`;
  const photo = desk.photo;
  if (!photo) return;
  const seen = new Set(visible(photo));
  if (desk.chosen && !seen.has(desk.chosen)) desk.chosen = null;
  for (const one of photo.instances) {
    const colour = tint(one), there = seen.has(one) && !one.hidden;
    for (const node of [one.path, one.tag, one.row]) node.style.setProperty("--c", colour);
    one.tag.lastChild.style.fill = dark(colour) ? "#fff" : "#111";
    one.path.style.display = there ? "" : "none";
    one.row.hidden = !seen.has(one);
    one.row.classList.toggle("gone", one.hidden);
    one.dye.value = colour;
    const eye = one.row.querySelector(".hide");
    eye.ariaLabel = eye.title = one.hidden ? "Show" : "Hide";
    eye.firstChild.firstChild.setAttribute("href", one.hidden ? "#i-hidden" : "#i-eye");
  }
  for (const chip of $("classes").children) {
    const label = Number(chip.dataset.label);
    const above = photo.instances.filter((one) => one.label === label && one.score >= desk.least).length;
    chip.lastChild.textContent = above;
    chip.setAttribute("aria-pressed", !off.has(label));
    chip.style.setProperty("--c", desk.byClass ? desk.model.colors[label] : "");
  }
  label();
  histogram(photo);
  const done = photo.state === "done", none = $("list").lastChild;
  $("count").textContent = done ? plural(seen.size, "instance") : { failed: "No result", working: "Looking…" }[photo.state] ?? "Waiting…";
  $("told").textContent = done ? `${photo.name} · ${photo.width} × ${photo.height} · ${photo.seconds.toFixed(1)} s` : photo.name;
  none.hidden = !done || seen.size > 0;
  none.textContent = photo.instances.length ? "Nothing above this score. Lower it, or show more classes." : "Nothing found in this photo.";
  $("drawing").setAttribute("aria-label", done ? summary(photo) : photo.name);
  for (const button of document.querySelectorAll("[data-export]")) button.disabled = !done;
  document.querySelector('[data-export="png"]').disabled = !done || !photo.small;
  $("every").hidden = !off.size && !photo.instances.some((one) => one.hidden);
  for (const one of photos) tile(one);
  mark();
  rove();
}

function histogram(photo) {
  const bins = new Array(20).fill(0);
  for (const one of photo.instances) if (!off.has(one.label)) bins[Math.min(19, Math.floor((one.score - 0.05) / 0.95 * 20))] += 1;
  const most = Math.max(...bins, 1);
  $("histogram").replaceChildren(...bins.map((n, i) => draw("rect", {
    x: i * 5 + 0.5, width: 4, y: 20 - 20 * Math.sqrt(n / most), height: 20 * Math.sqrt(n / most),
    class: 0.05 + (i + 1) * 0.0475 > desk.least + 1e-9 ? "in" : "",
  })));
}

export function hide(one) {
  one.hidden = !one.hidden;
  update();
}
