// The picture under its outlines: zoom, names, mouse and fingers.

import { choose, hover, point } from "./choose.js";
import { $, draw, toast } from "./dom.js";
import { desk, place, shown, zoom } from "./state.js";

const FAR = 40; // times enlarged at most
let fitted = 1;

$("picture").onload = () => {
  if (!desk.photo) return;
  if (!desk.photo.width) {
    desk.photo.width = $("picture").naturalWidth;
    desk.photo.height = $("picture").naturalHeight;
  }
  fit();
};
$("picture").onerror = () => {
  $("picture").hidden = true;
  if (desk.photo && desk.photo.state !== "failed") toast("Your browser cannot show this format; the outlines are right all the same.");
};

// A corner of the polygon is rounded by at most RADIUS pixels, so that steps of a pixel look like the curve they stand for.
const RADIUS = 1.5;
export function outline(parts) {
  const pieces = [];
  for (const rings of parts) {
    for (const ring of rings) {
      const n = ring.length / 2;
      for (let i = 0; i < n; i++) {
        const at = (j) => [ring[2 * ((j + n) % n)], ring[2 * ((j + n) % n) + 1]];
        const [x, y] = at(i), before = cut(x, y, ...at(i - 1)), after = cut(x, y, ...at(i + 1));
        pieces.push(`${i ? "L" : "M"}${before}Q${x} ${y} ${after}`);
      }
      pieces.push("Z");
    }
  }
  return pieces.join("");
}
function cut(x, y, x2, y2) {
  const t = Math.min(0.5, RADIUS / Math.max(Math.hypot(x2 - x, y2 - y), 1e-6));
  return `${(x + t * (x2 - x)).toFixed(2)} ${(y + t * (y2 - y)).toFixed(2)}`;
}

export function shapes(photo) {
  $("shapes").replaceChildren(...[...photo.instances].sort((a, b) => place(b) - place(a)).map((one) => {
    one.path = draw("path", { d: one.d, "data-id": one.id });
    return one.path;
  }));
  $("tags").replaceChildren(...photo.instances.map((one) => {
    one.tag = draw("g", {});
    one.tag.append(draw("rect", { rx: 4, height: 18, width: width(one.name), y: -9 }), draw("text", { x: 5, y: 4.2 }, one.name));
    return one.tag;
  }));
}

export function fit() {
  const { clientWidth: w, clientHeight: h } = $("stage"), { width, height } = desk.photo ?? {};
  if (!width || !w) return;
  const room = w < 600 ? 10 : 26, foot = 68;
  fitted = Math.min((w - 2 * room) / width, (h - room - foot) / height);
  Object.assign(zoom, { k: fitted, x: (w - fitted * width) / 2, y: (h - foot + room - fitted * height) / 2 });
  look();
}
function look() {
  if (!desk.photo?.width) return;
  const { k, x, y } = zoom;
  $("picture").style.width = desk.photo.width + "px";
  $("picture").style.height = desk.photo.height + "px";
  $("picture").style.transform = `translate(${x}px, ${y}px) scale(${k})`;
  $("picture").classList.toggle("coarse", k > 6);
  $("space").setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
  $("stage").style.touchAction = k > fitted * 1.01 ? "none" : "pan-y";
  label();
  point();
}

// Names at the upper edges; the best-scored come first, and one without room, or that would hide its instance, is left out.
export function label() {
  const { k, x, y } = zoom, taken = [], wanted = $("tagged").getAttribute("aria-pressed") === "true";
  const seen = new Set(wanted ? shown(desk.photo) : []);
  for (const one of desk.photo.instances) {
    const [x1, y1, x2, y2] = one.box, wide = width(one.name);
    const left = k * (x1 + x2) / 2 + x - wide / 2, top = Math.max(k * y1 + y, 11);
    const room = seen.has(one) && k * (x2 - x1) > 1.4 * wide && k * (y2 - y1) > 22 && k * y2 + y > 30
      && !taken.some(([l, t, w]) => left < l + w && l < left + wide && Math.abs(top - t) < 19);
    one.tag.style.display = room ? "" : "none";
    if (!room) continue;
    taken.push([left, top, wide]);
    one.tag.setAttribute("transform", `translate(${left} ${top})`);
  }
}
const width = (name) => 10 + 7.1 * name.length;
export function magnify(factor, x, y) {
  const k = Math.min(Math.max(zoom.k * factor, fitted * 0.5), Math.max(fitted, 1) * FAR);
  Object.assign(zoom, { k, x: x - (x - zoom.x) * k / zoom.k, y: y - (y - zoom.y) * k / zoom.k });
  look();
}
export function pan(x, y) {
  zoom.x += x;
  zoom.y += y;
  look();
}
export const middle = () => [$("stage").clientWidth / 2, $("stage").clientHeight / 2];
new ResizeObserver(() => (zoom.k === fitted ? fit() : look())).observe($("stage"));

const fingers = new Map();
let moved = 0;
const inside = (event) => {
  const box = $("stage").getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
$("stage").addEventListener("wheel", (event) => {
  event.preventDefault();
  magnify(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), ...inside(event));
}, { passive: false });
$("stage").addEventListener("pointerdown", (event) => {
  if (event.target.closest("button, #card")) return;
  fingers.set(event.pointerId, inside(event));
  if (fingers.size === 1) moved = 0;
});
addEventListener("pointermove", (event) => {
  const old = fingers.get(event.pointerId);
  if (!old) return;
  const now = inside(event);
  moved += Math.hypot(now[0] - old[0], now[1] - old[1]);
  if (fingers.size === 2) {
    const [other] = [...fingers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    const spread = (at) => Math.max(Math.hypot(at[0] - other[0], at[1] - other[1]), 1);
    magnify(spread(now) / spread(old), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
  }
  if (moved > 4 || fingers.size === 2) {
    $("stage").classList.add("drag");
    pan((now[0] - old[0]) / fingers.size, (now[1] - old[1]) / fingers.size);
  }
  fingers.set(event.pointerId, now);
});
for (const kind of ["pointerup", "pointercancel"]) {
  addEventListener(kind, (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!fingers.size) $("stage").classList.remove("drag");
    if (kind === "pointerup" && moved <= 4) choose(under(event));
  });
}
const under = (event) => desk.photo?.instances.find((one) => one.path === event.target.closest?.("#shapes path")) ?? null;
$("stage").addEventListener("dblclick", (event) => magnify(2, ...inside(event)));
$("drawing").addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse" && !fingers.size) hover(under(event));
});
$("drawing").addEventListener("pointerleave", () => hover(null));
