// Small helpers that know nothing of photos.

export const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

export const make = (tag, props = {}, ...inside) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...inside);
  return node;
};
export const draw = (tag, attributes, inside = "") => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (inside) node.append(inside);
  return node;
};
export const icon = (name) => {
  const node = draw("svg", { "aria-hidden": "true" });
  node.append(draw("use", { href: "#i-" + name }));
  return node;
};
export const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
export const plural = (n, word) => `${n.toLocaleString()} ${word}${n === 1 ? "" : "s"}`;
export const percent = (score) => `${Math.floor(score * 100 + 1e-6)}%`;
export const stem = (name) => name.replace(/\.[^.]*$/, "") || "photo";

let fading = 0;
export function toast(words) {
  $("toast").textContent = words;
  $("toast").classList.add("show");
  clearTimeout(fading);
  fading = setTimeout(() => $("toast").classList.remove("show"), 4000);
}
export const say = (words) => { if (!$("toast").classList.contains("show")) $("toast").textContent = words; };
