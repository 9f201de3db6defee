// The stages of the network, for one photo.

import { $, make } from "./dom.js";
import { body, call } from "./server.js";
import { desk } from "./state.js";

export async function explain() {
  const photo = desk.photo, state = (kind, title, words) => $("study").replaceChildren(
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
    if (photo === desk.photo) state("", "This photo could not be explained", error.message);
    return;
  }
  if (photo !== desk.photo || document.body.dataset.view !== "explain" || $("study").dataset.id === String(photo.id) && $("study").querySelector("iframe")) return;
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
