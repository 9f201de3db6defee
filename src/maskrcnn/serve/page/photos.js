// Photos on their way: to the server, into view, and away.

import { $, say, toast } from "./dom.js";
import { explain } from "./explain.js";
import { chips, rows, update } from "./list.js";
import { body, call, Refused } from "./server.js";
import { fit, outline, shapes } from "./stage.js";
import { desk, LOWEST, photos, summary } from "./state.js";
import { tile } from "./strip.js";

const AT_ONCE = 2;
let number = 0;

async function start() {
  try {
    const told = await (await call("/v1/models")).json();
    desk.model = told.models[0];
    desk.limits = told.limits;
  } catch (error) {
    toast(error.message);
    return;
  }
  desk.least = Math.max(desk.model.score, LOWEST);
  $("score").value = Math.round(desk.least * 100);
  $("model").textContent = `${desk.model.name} · ${desk.model.classes.length === 1 ? "1 class" : desk.model.classes.length + " classes"}`;
  $("model").title = `${desk.model.architecture}: ${desk.model.classes.join(", ")}`;
}
const started = start();

export function add(files) {
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

export async function work() {
  if (photos.filter((p) => p.state === "working").length >= AT_ONCE) return;
  const photo = photos.find((p) => p.state === "waiting");
  if (!photo) return;
  photo.state = "working";
  refresh(photo);
  work();
  const began = performance.now();
  try {
    if (photo.file.size > desk.limits.bytes) {
      throw new Refused(`It has ${(photo.file.size / 2 ** 20).toFixed(1)} MiB; this server takes ${(desk.limits.bytes / 2 ** 20).toFixed(0)} MiB.`);
    }
    const query = `score=${Math.min(LOWEST, desk.model.score)}&outlines=true`;
    const told = await (await call("/v1/predict?" + query, { method: "POST", body: body(photo) })).json();
    const seconds = (performance.now() - began) / 1000;
    const small = await createImageBitmap(photo.file, { resizeWidth: Math.min(told.width, 1200), resizeQuality: "medium" }).catch(() => null);
    // All at once, and shown below before anything else runs: the stage labels no instance that is not drawn.
    const instances = told.instances.map((one) => ({ ...one, d: outline(one.parts), hidden: false }));
    Object.assign(photo, { width: told.width, height: told.height, instances, seconds, small, state: "done" });
  } catch (error) {
    photo.state = "failed";
    photo.error = error instanceof Refused ? error.message : "This page could not show the answer: " + error.message;
  }
  if (photos.includes(photo)) {
    refresh(photo);
    if (photo === desk.photo && photo.state === "done") say(summary(photo));
  }
  work();
}

$("strip").onclick = (event) => {
  const item = event.target.closest("li"), photo = photos.find((p) => String(p.id) === item?.dataset.id);
  if (photo) (event.target.closest(".away") ? remove : show)(photo);
};

export function refresh(photo) {
  tile(photo);
  if (photo === desk.photo) show(photo);
}

export function remove(photo) {
  const at = photos.indexOf(photo);
  photos.splice(at, 1);
  URL.revokeObjectURL(photo.url);
  document.querySelector(`#strip [data-id="${photo.id}"]`)?.remove();
  if (!photos.length) {
    desk.photo = null;
    view("empty");
  } else if (photo === desk.photo) show(photos[Math.min(at, photos.length - 1)]);
}

export function show(photo) {
  const same = photo === desk.photo;
  desk.photo = photo;
  desk.chosen = desk.hovered = null;
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

export function view(name) {
  document.body.dataset.view = name;
  for (const tab of document.querySelectorAll("[role=tab]")) {
    const on = tab.id === "tab-" + name;
    tab.setAttribute("aria-selected", on);
    tab.tabIndex = on ? 0 : -1;
  }
  if (name === "explain") explain();
  if (name === "instances") fit();
}
