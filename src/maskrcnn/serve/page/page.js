"use strict";
// Photos go to the server once, with a low score; slider, classes, colours and exports work on what came back.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const LOWEST = 0.05, AT_ONCE = 2, TRIES = 8, FAR = 40;

const make = (tag, props = {}, ...inside) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...inside);
  return node;
};
const draw = (tag, attributes, inside = "") => {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (inside) node.append(inside);
  return node;
};
const icon = (name) => {
  const node = draw("svg", { "aria-hidden": "true" });
  node.append(draw("use", { href: "#i-" + name }));
  return node;
};
const wait = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));
const plural = (n, word) => `${n.toLocaleString()} ${word}${n === 1 ? "" : "s"}`;
const percent = (score) => `${Math.floor(score * 100 + 1e-6)}%`;
const stem = (name) => name.replace(/\.[^.]*$/, "") || "photo";

let model = { name: "", classes: [], colors: [], score: 0.5 }, allowed = { bytes: Infinity };
let token = "", threshold = 0.5, byClass = false, chosen = null, hovered = null, current = null, number = 0;
const photos = [], off = new Set();

// ---- talking to the server

class Refused extends Error {}

async function call(path, options = {}) {
  for (let turn = 1; ; turn++) {
    let answer;
    try {
      answer = await fetch(path, { ...options, headers: token ? { Authorization: "Bearer " + token } : {} });
    } catch {
      throw new Refused("The server does not answer. Is it still running?");
    }
    if (answer.ok) return answer;
    if (answer.status === 401) {
      await ask();
      continue;
    }
    if ((answer.status === 429 || answer.status === 503) && turn < TRIES) {
      await wait(Number(answer.headers.get("Retry-After")) || 2);
      continue;
    }
    const said = await answer.json().catch(() => null);
    throw new Refused(said?.error?.message ?? `The server answered with status ${answer.status}.`);
  }
}

let asking = null;
function ask() {
  asking ??= new Promise((done) => {
    $("door").showModal();
    $("door").onclose = () => { token = $("token").value.trim(); asking = null; done(); };
  });
  return asking;
}

function body(photo) {
  const form = new FormData();
  form.append("file", photo.file, photo.name);
  return form;
}

async function start() {
  try {
    const told = await (await call("/v1/models")).json();
    model = told.models[0];
    allowed = told.limits;
  } catch (error) {
    toast(error.message);
    return;
  }
  threshold = Math.max(model.score, LOWEST);
  $("score").value = Math.round(threshold * 100);
  $("model").textContent = `${model.name} · ${model.classes.length === 1 ? "1 class" : model.classes.length + " classes"}`;
  $("model").title = `${model.architecture}: ${model.classes.join(", ")}`;
  $("drawn").hidden = !model.classes.includes("disc");
}
const started = start();

// ---- photos

function add(files) {
  const fresh = [...files].map((file) => ({
    id: ++number, file, name: file.name || `pasted ${number}.png`, state: "waiting", url: URL.createObjectURL(file),
    instances: [], width: 0, height: 0, shown: null, explained: null,
  }));
  if (!fresh.length) return;
  photos.push(...fresh);
  if (document.body.dataset.view === "empty") view("instances");
  show(fresh[0]);
  fresh.forEach(tile);
  started.then(work);
}

async function work() {
  if (photos.filter((p) => p.state === "working").length >= AT_ONCE) return;
  const photo = photos.find((p) => p.state === "waiting");
  if (!photo) return;
  photo.state = "working";
  refresh(photo);
  work();
  const began = performance.now();
  try {
    if (photo.file.size > allowed.bytes) {
      throw new Refused(`It has ${(photo.file.size / 2 ** 20).toFixed(1)} MiB; this server takes ${(allowed.bytes / 2 ** 20).toFixed(0)} MiB.`);
    }
    const query = `score=${Math.min(LOWEST, model.score)}&outlines=true`;
    const told = await (await call("/v1/predict?" + query, { method: "POST", body: body(photo) })).json();
    photo.width = told.width;
    photo.height = told.height;
    photo.instances = told.instances.map((one) => ({ ...one, d: outline(one.parts), hidden: false }));
    photo.seconds = (performance.now() - began) / 1000;
    photo.small = await createImageBitmap(photo.file, { resizeWidth: Math.min(told.width, 1200), resizeQuality: "medium" }).catch(() => null);
    photo.state = "done";
  } catch (error) {
    photo.state = "failed";
    photo.error = error instanceof Refused ? error.message : "This page could not show the answer: " + error.message;
  }
  if (photos.includes(photo)) {
    refresh(photo);
    if (photo === current && photo.state === "done") say(summary(photo));
  }
  work();
}

function refresh(photo) {
  tile(photo);
  if (photo === current) show(photo);
}

async function tile(photo) {
  let item = document.querySelector(`#strip [data-id="${photo.id}"]`);
  if (!item) {
    const button = make("button", { type: "button", className: "photo" }, make("canvas", { width: 176, height: 132 }), make("span"));
    const away = make("button", { type: "button", className: "away icon", ariaLabel: `Remove ${photo.name}` }, icon("close"));
    button.onclick = () => show(photo);
    away.onclick = () => remove(photo);
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
  button.setAttribute("aria-current", photo === current);
}

function cover(canvas, source, w, h) {
  const k = Math.max(canvas.width / w, canvas.height / h);
  canvas.getContext("2d").drawImage(source, (canvas.width - k * w) / 2, (canvas.height - k * h) / 2, k * w, k * h);
}

function remove(photo) {
  const at = photos.indexOf(photo);
  photos.splice(at, 1);
  URL.revokeObjectURL(photo.url);
  document.querySelector(`#strip [data-id="${photo.id}"]`)?.remove();
  if (!photos.length) {
    current = null;
    view("empty");
  } else if (photo === current) show(photos[Math.min(at, photos.length - 1)]);
}

// ---- the stage

function show(photo) {
  const same = photo === current;
  current = photo;
  chosen = hovered = null;
  for (const item of $("strip").children) item.firstChild.setAttribute("aria-current", item.dataset.id === String(photo.id));
  $("stage").className = { waiting: "busy", working: "busy", failed: "failed" }[photo.state] ?? "";
  $("card").hidden = photo.state !== "failed";
  if (photo.state === "failed") {
    const said = photo.error.startsWith(photo.name + ": ") ? photo.error.slice(photo.name.length + 2) : photo.error;
    $("card").firstChild.textContent = `No result for ${photo.name}`;
    $("card").children[1].textContent = said[0].toUpperCase() + said.slice(1).replace(/[.]?$/, ".");
  }
  if (!same || !$("picture").src) {
    $("picture").hidden = false;
    $("picture").src = photo.url;
    $("picture").alt = photo.name;
  }
  shapes(photo);
  rows(photo);
  chips(photo);
  if (!same || photo.state === "done") fit();
  update();
  if (document.body.dataset.view === "explain") explain();
}

$("picture").onload = () => {
  if (!current) return;
  if (!current.width) {
    current.width = $("picture").naturalWidth;
    current.height = $("picture").naturalHeight;
  }
  fit();
};
$("picture").onerror = () => {
  $("picture").hidden = true;
  if (current && current.state !== "failed") toast("Your browser cannot show this format; the outlines are right all the same.");
};

// A corner of the polygon is rounded by at most RADIUS pixels, so that steps of a pixel look like the curve they stand for.
const RADIUS = 1.5;
function outline(parts) {
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

const tint = (one) => one.dyed ?? (byClass ? model.colors[one.label] ?? one.color : one.color);
const visible = (photo) => photo.instances.filter((one) => one.score >= threshold && !off.has(one.label));
const shown = (photo) => visible(photo).filter((one) => !one.hidden);
const place = (one) => (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]);

function shapes(photo) {
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

let zoom = { k: 1, x: 0, y: 0 }, fitted = 1;
function fit() {
  const { clientWidth: w, clientHeight: h } = $("stage"), { width, height } = current ?? {};
  if (!width || !w) return;
  const room = w < 600 ? 10 : 26, foot = 68;
  fitted = Math.min((w - 2 * room) / width, (h - room - foot) / height);
  zoom = { k: fitted, x: (w - fitted * width) / 2, y: (h - foot + room - fitted * height) / 2 };
  look();
}
function look() {
  if (!current?.width) return;
  const { k, x, y } = zoom;
  $("picture").style.width = current.width + "px";
  $("picture").style.height = current.height + "px";
  $("picture").style.transform = `translate(${x}px, ${y}px) scale(${k})`;
  $("picture").classList.toggle("coarse", k > 6);
  $("space").setAttribute("transform", `translate(${x} ${y}) scale(${k})`);
  $("stage").style.touchAction = k > fitted * 1.01 ? "none" : "pan-y";
  label();
  point();
}

// Names at the upper edges; the best-scored come first, and one without room, or that would hide its instance, is left out.
function label() {
  const { k, x, y } = zoom, taken = [], wanted = $("tagged").getAttribute("aria-pressed") === "true";
  const seen = new Set(wanted ? shown(current) : []);
  for (const one of current.instances) {
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
function magnify(factor, x, y) {
  const k = Math.min(Math.max(zoom.k * factor, fitted * 0.5), Math.max(fitted, 1) * FAR);
  zoom = { k, x: x - (x - zoom.x) * k / zoom.k, y: y - (y - zoom.y) * k / zoom.k };
  look();
}
const middle = () => [$("stage").clientWidth / 2, $("stage").clientHeight / 2];
new ResizeObserver(() => { if (current) fit(); }).observe($("stage"));

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
    zoom.x += (now[0] - old[0]) / fingers.size;
    zoom.y += (now[1] - old[1]) / fingers.size;
    look();
  }
  fingers.set(event.pointerId, now);
});
for (const kind of ["pointerup", "pointercancel"]) {
  addEventListener(kind, (event) => {
    if (!fingers.delete(event.pointerId)) return;
    if (!fingers.size) $("stage").classList.remove("drag");
    if (kind === "pointerup" && moved <= 4) choose(under(event), event.pointerType !== "mouse");
  });
}
const under = (event) => current?.instances.find((one) => one.path === event.target.closest?.("#shapes path")) ?? null;
$("stage").addEventListener("dblclick", (event) => magnify(2, ...inside(event)));
$("drawing").addEventListener("pointerover", (event) => {
  if (event.pointerType === "mouse" && !fingers.size) hover(under(event));
});
$("drawing").addEventListener("pointerleave", () => hover(null));

// ---- which instance

function hover(one, reveal = true) {
  if (hovered === one) return;
  hovered = one;
  mark();
  if (one && reveal) one.row?.scrollIntoView({ block: "nearest" });
}
function choose(one) {
  chosen = one === chosen ? null : one;
  hovered = null;
  if (chosen && innerWidth > 860) chosen.row?.scrollIntoView({ block: "nearest" });
  mark();
  rove();
}
function mark() {
  if (!current) return;
  for (const one of current.instances) {
    one.path?.classList.toggle("on", one === hovered || one === chosen);
    one.row?.classList.toggle("on", one === hovered);
    one.row?.classList.toggle("picked", one === chosen);
    one.row?.querySelector(".pick").setAttribute("aria-pressed", one === chosen);
  }
  const lit = chosen && shown(current).includes(chosen);
  $("drawing").classList.toggle("pick", lit);
  $("spot").setAttribute("d", lit ? `M0 0H${current.width}V${current.height}H0Z${chosen.d}` : "");
  point();
}
function point() {
  const one = hovered ?? chosen;
  $("tip").hidden = !one || !current || !shown(current).includes(one);
  if ($("tip").hidden) return;
  $("tip").textContent = `${one.name} ${percent(one.score)}`;
  const { k, x, y } = zoom, [x1, y1, x2] = one.box, stage = $("stage"), tip = $("tip");
  const left = Math.min(Math.max(k * (x1 + x2) / 2 + x - tip.offsetWidth / 2, 6), stage.clientWidth - tip.offsetWidth - 6);
  tip.style.transform = `translate(${left}px, ${Math.min(Math.max(k * y1 + y - 36, 6), stage.clientHeight - 40)}px)`;
}

// ---- the list

function rows(photo) {
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

function rove() {
  const seen = current ? visible(current) : [];
  const stop = seen.includes(chosen) ? chosen : seen[0];
  for (const one of seen) one.row.firstChild.tabIndex = one === stop ? 0 : -1;
}

function chips(photo) {
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
function update() {
  $("least").textContent = `${$("score").value}%`;
  const photo = current;
  if (!photo) return;
  const seen = new Set(visible(photo));
  if (chosen && !seen.has(chosen)) chosen = null;
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
    const above = photo.instances.filter((one) => one.label === label && one.score >= threshold).length;
    chip.lastChild.textContent = above;
    chip.setAttribute("aria-pressed", !off.has(label));
    chip.style.setProperty("--c", byClass ? model.colors[label] : "");
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

function summary(photo) {
  const counts = new Map();
  for (const one of visible(photo)) counts.set(one.name, (counts.get(one.name) ?? 0) + 1);
  const said = [...counts].map(([name, n]) => `${n} ${name}`).join(", ");
  return `${photo.name}: ${said || "nothing found at this score"}`;
}

function histogram(photo) {
  const bins = new Array(20).fill(0);
  for (const one of photo.instances) if (!off.has(one.label)) bins[Math.min(19, Math.floor((one.score - 0.05) / 0.95 * 20))] += 1;
  const most = Math.max(...bins, 1);
  $("histogram").replaceChildren(...bins.map((n, i) => draw("rect", {
    x: i * 5 + 0.5, width: 4, y: 20 - 20 * Math.sqrt(n / most), height: 20 * Math.sqrt(n / most),
    class: 0.05 + (i + 1) * 0.0475 > threshold + 1e-9 ? "in" : "",
  })));
}

const dark = (hex) => {
  const [r, g, b] = [1, 3, 5].map((i) => (parseInt(hex.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.18;
};

function hide(one) {
  one.hidden = !one.hidden;
  update();
}

// ---- cut-outs and exports

const blob = (canvas) => new Promise((done, fail) => canvas.toBlob((data) => (data ? done(data) : fail(new Error("too large"))), "image/png"));

async function cutout(photo, one) {
  const whole = await createImageBitmap(photo.file);
  const x = Math.max(Math.floor(one.box[0]) - 1, 0), y = Math.max(Math.floor(one.box[1]) - 1, 0);
  const w = Math.min(Math.ceil(one.box[2]) + 1, photo.width) - x, h = Math.min(Math.ceil(one.box[3]) + 1, photo.height) - y;
  const canvas = make("canvas", { width: w, height: h }), context = canvas.getContext("2d");
  context.translate(-x, -y);
  context.clip(new Path2D(one.d), "evenodd");
  context.drawImage(whole, x, y, w, h, x, y, w, h);
  whole.close();
  return blob(canvas);
}

async function copy(one) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": cutout(current, one) })]);
    toast("Copied with a transparent background");
  } catch {
    toast("This browser does not let pages copy pictures; download it instead");
  }
}

const keep = (one) => offer(async (photo) => save(await cutout(photo, one), `${stem(photo.name)}_${one.id}_${one.name.replace(/[^\w-]+/g, "_")}.png`));

async function offer(action) {
  try {
    await action(current);
  } catch {
    toast("Your browser cannot draw this picture; the API can: format=overlay");
  }
}

function save(data, name) {
  const url = URL.createObjectURL(data);
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

async function overlay(photo) {
  const whole = await createImageBitmap(photo.file), { width, height } = photo;
  const canvas = make("canvas", { width, height }), context = canvas.getContext("2d"), side = Math.sqrt(width * height);
  context.drawImage(whole, 0, 0, width, height);
  whole.close();
  const list = shown(photo).sort((a, b) => place(b) - place(a)), line = Math.max(1, side / 400);
  context.lineJoin = "round";
  for (const one of list) {
    const path = new Path2D(one.d);
    if ($("fill").getAttribute("aria-pressed") === "true") {
      context.globalAlpha = 0.4;
      context.fillStyle = tint(one);
      context.fill(path, "evenodd");
    }
    for (const [alpha, colour, wide] of [[0.5, "#000", 1.8 * line], [1, tint(one), line]]) {
      Object.assign(context, { globalAlpha: alpha, strokeStyle: colour, lineWidth: wide });
      context.stroke(path);
    }
  }
  if ($("tagged").getAttribute("aria-pressed") === "true") {
    const size = Math.max(9, side / 44);
    context.font = `600 ${size}px system-ui, sans-serif`;
    for (const one of list.reverse()) {
      const wide = context.measureText(one.name).width + size * 0.7, x = Math.max(Math.min(one.box[0], width - wide), 0);
      const y = Math.max(one.box[1] - size * 0.7, 0);
      context.fillStyle = tint(one);
      context.fillRect(x, y, wide, size * 1.35);
      context.fillStyle = dark(tint(one)) ? "#fff" : "#111";
      context.fillText(one.name, x + size * 0.35, y + size);
    }
  }
  return blob(canvas);
}

const json = (value) => new Blob([JSON.stringify(value, null, 1)], { type: "application/json" });

function coco(photo) {
  return {
    images: [{ id: 1, file_name: photo.name, width: photo.width, height: photo.height }],
    categories: model.classes.map((name, i) => ({ id: i + 1, name, supercategory: "" })),
    annotations: shown(photo).map((one, i) => {
      const [x1, y1, x2, y2] = one.box;
      return { id: i + 1, image_id: 1, category_id: one.label + 1, bbox: [x1, y1, x2 - x1, y2 - y1], score: one.score,
        segmentation: one.mask, area: one.area, iscrowd: 0 };
    }),
  };
}

function labelme(photo) {
  const points = (ring) => Array.from({ length: ring.length / 2 }, (_, i) => [ring[2 * i], ring[2 * i + 1]]);
  return {
    version: "5.5.0", flags: {}, imagePath: photo.name, imageData: null, imageHeight: photo.height, imageWidth: photo.width,
    shapes: shown(photo).flatMap((one) => one.parts.map((rings) => ({
      label: one.name, points: points(rings[0]), group_id: one.parts.length > 1 ? one.id : null,
      description: one.score.toFixed(4), shape_type: "polygon", flags: {},
    }))),
  };
}

const EXPORTS = {
  png: async (photo) => save(await overlay(photo), `${stem(photo.name)}_overlay.png`),
  coco: (photo) => save(json(coco(photo)), `${stem(photo.name)}_coco.json`),
  labelme: (photo) => save(json(labelme(photo)), `${stem(photo.name)}.json`),
};
for (const button of document.querySelectorAll("[data-export]")) button.onclick = () => offer(EXPORTS[button.dataset.export]);

// ---- the explain tab

async function explain() {
  const photo = current, state = (kind, title, words) => $("study").replaceChildren(
    make("div", { className: "state " + kind, role: "status" }, make("b", { textContent: title }), words));
  if (photo.explained === null) {
    state("wait", "Watching the network at work", "Anchors, proposals, RoIAlign against RoIPool, the mask: a few seconds.");
    photo.explained = call("/v1/explain", { method: "POST", body: body(photo) }).then((answer) => answer.text());
    photo.explained.catch(() => { photo.explained = null; });
  }
  let html;
  try {
    html = await photo.explained;
  } catch (error) {
    if (photo === current) state("", "This photo could not be explained", error.message);
    return;
  }
  if (photo !== current || document.body.dataset.view !== "explain" || $("study").dataset.id === String(photo.id) && $("study").querySelector("iframe")) return;
  // The page has a script of its own, so it lives in a frame that is shut off from this one.
  const frame = make("iframe", { title: `How the network sees ${photo.name}`, src: "/explained" });
  frame.sandbox = "allow-scripts";
  frame.onload = () => {
    frame.onload = null;
    frame.contentWindow.postMessage(html, "*");
  };
  $("study").dataset.id = photo.id;
  $("study").replaceChildren(frame);
}

function view(name) {
  document.body.dataset.view = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === "tab-" + name;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
  }
  if (name === "explain") explain();
  if (name === "instances") fit();
}
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

// ---- controls

$("score").oninput = () => { threshold = $("score").value / 100; update(); };
$("every").onclick = () => { off.clear(); for (const one of current.instances) one.hidden = false; update(); };
for (const id of ["tint", "fill", "tagged"]) {
  $(id).onclick = () => {
    const on = $(id).getAttribute("aria-pressed") !== "true";
    $(id).setAttribute("aria-pressed", on);
    if (id === "tint") byClass = on;
    if (id === "fill") $("drawing").classList.toggle("bare", !on);
    update();
  };
}
for (const button of document.querySelectorAll("[data-zoom]")) {
  button.onclick = () => (Number(button.dataset.zoom) ? magnify(Number(button.dataset.zoom), ...middle()) : fit());
}
for (const button of document.querySelectorAll("[data-pick]")) button.onclick = () => $("files").click();
for (const input of [$("files"), $("shot")]) input.onchange = () => { add(input.files); input.value = ""; };
$("again").onclick = () => { current.state = "waiting"; refresh(current); work(); };
$("drop").onclick = () => remove(current);

let stream = null;
for (const button of document.querySelectorAll("[data-camera]")) {
  button.onclick = async () => {
    if (!navigator.mediaDevices || matchMedia("(pointer: coarse)").matches) return $("shot").click();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    } catch {
      return toast("No camera that this page may use");
    }
    $("lens").querySelector("video").srcObject = stream;
    $("lens").querySelector(".primary").disabled = true;
    $("lens").returnValue = "";
    $("lens").showModal();
  };
}
$("lens").querySelector("video").onloadeddata = () => {
  $("lens").querySelector(".primary").disabled = false;
  $("lens").querySelector(".primary").focus();
};
$("lens").onclose = () => {
  const video = $("lens").querySelector("video");
  if ($("lens").returnValue === "shot" && video.videoWidth) {
    const canvas = make("canvas", { width: video.videoWidth, height: video.videoHeight });
    canvas.getContext("2d").drawImage(video, 0, 0);
    canvas.toBlob((data) => add([new File([data], `camera ${number + 1}.jpg`, { type: "image/jpeg" })]), "image/jpeg", 0.95);
  }
  for (const track of stream?.getTracks() ?? []) track.stop();
  video.srcObject = null;
};

// Shapes like those that the demonstration network was trained on.
$("drawn").onclick = async () => {
  const w = 960, h = 640, canvas = make("canvas", { width: w, height: h }), c = canvas.getContext("2d");
  const any = (low, high) => low + Math.random() * (high - low), turn = Math.floor(any(0, 360));
  const ground = c.createLinearGradient(0, 0, w, h);
  ground.addColorStop(0, `hsl(${turn} 30% 84%)`);
  ground.addColorStop(1, `hsl(${turn + 50} 26% 66%)`);
  c.fillStyle = ground;
  c.fillRect(0, 0, w, h);
  for (let i = 0; i < 12; i++) {
    const x = w * (i % 4 + 0.5) / 4 + any(-26, 26), y = h * (Math.floor(i / 4) + 0.5) / 3 + any(-18, 18), r = any(46, 84);
    const kind = Math.floor(any(0, 5)), path = new Path2D(), start = any(0, 6.3), corners = [0, 4, 3, 0, 10][kind];
    if (!corners) path.arc(x, y, r, 0, 7);
    for (let j = 0; j < corners; j++) {
      const far = corners === 10 && j % 2 ? r * 0.42 : r;
      path.lineTo(x + far * Math.cos(start + j * 6.2832 / corners), y + far * Math.sin(start + j * 6.2832 / corners));
    }
    path.closePath();
    if (kind === 3) path.arc(x, y, r * 0.5, 0, 7);
    c.fillStyle = `hsl(${turn + 97 * i} ${any(45, 75)}% ${any(34, 60)}%)`;
    c.fill(path, "evenodd");
  }
  add([new File([await blob(canvas)], "drawn.png", { type: "image/png" })]);
};

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

// drop and paste
let over = 0;
const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => { if (files(event)) { over += 1; $("veil").hidden = false; } });
addEventListener("dragleave", (event) => { if (files(event)) { over -= 1; $("veil").hidden = over > 0 ? false : true; } });
addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!files(event)) return;
  event.preventDefault();
  over = 0;
  $("veil").hidden = true;
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));

// keys
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !current || document.querySelector("dialog[open]")) return;
  if (event.target.matches("input") || document.body.dataset.view !== "instances") return;
  const onStage = event.target === $("stage"), inList = event.target.closest("#list"), one = chosen ?? hovered;
  const step = (by) => {
    const seen = visible(current);
    if (!seen.length) return;
    const next = seen[(seen.indexOf(one) + by + (one ? 0 : by < 0 ? 1 : 0) + seen.length) % seen.length];
    chosen = null;
    choose(next);
    next.row.firstChild.focus();
  };
  const pan = (x, y) => { zoom.x += x; zoom.y += y; look(); };
  const other = (by) => show(photos[(photos.indexOf(current) + by + photos.length) % photos.length]);
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

let fading = 0;
function toast(words) {
  $("toast").textContent = words;
  $("toast").classList.add("show");
  clearTimeout(fading);
  fading = setTimeout(() => $("toast").classList.remove("show"), 4000);
}
const say = (words) => { if (!$("toast").classList.contains("show")) $("toast").textContent = words; };
