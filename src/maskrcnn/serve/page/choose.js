// Which instance is pointed at or chosen, in the list and in the picture at once.

import { $, percent } from "./dom.js";
import { desk, shown, visible, zoom } from "./state.js";

export function hover(one, reveal = true) {
  if (desk.hovered === one) return;
  desk.hovered = one;
  mark();
  if (one && reveal) one.row?.scrollIntoView({ block: "nearest" });
}
export function choose(one) {
  desk.chosen = one === desk.chosen ? null : one;
  desk.hovered = null;
  if (desk.chosen && innerWidth > 860) desk.chosen.row?.scrollIntoView({ block: "nearest" });
  mark();
  rove();
}
export function mark() {
  if (!desk.photo) return;
  for (const one of desk.photo.instances) {
    one.path?.classList.toggle("on", one === desk.hovered || one === desk.chosen);
    one.row?.classList.toggle("on", one === desk.hovered);
    one.row?.classList.toggle("picked", one === desk.chosen);
    one.row?.querySelector(".pick").setAttribute("aria-pressed", one === desk.chosen);
  }
  const lit = desk.chosen && shown(desk.photo).includes(desk.chosen);
  $("drawing").classList.toggle("pick", lit);
  $("spot").setAttribute("d", lit ? `M0 0H${desk.photo.width}V${desk.photo.height}H0Z${desk.chosen.d}` : "");
  point();
}
export function point() {
  const one = desk.hovered ?? desk.chosen;
  $("tip").hidden = !one || !desk.photo || !shown(desk.photo).includes(one);
  if ($("tip").hidden) return;
  $("tip").textContent = `${one.name} ${percent(one.score)}`;
  const { k, x, y } = zoom, [x1, y1, x2] = one.box, stage = $("stage"), tip = $("tip");
  const left = Math.min(Math.max(k * (x1 + x2) / 2 + x - tip.offsetWidth / 2, 6), stage.clientWidth - tip.offsetWidth - 6);
  tip.style.transform = `translate(${left}px, ${Math.min(Math.max(k * y1 + y - 36, 6), stage.clientHeight - 40)}px)`;
}

export function rove() {
  const seen = desk.photo ? visible(desk.photo) : [];
  const stop = seen.includes(desk.chosen) ? desk.chosen : seen[0];
  for (const one of seen) one.row.firstChild.tabIndex = one === stop ? 0 : -1;
}
