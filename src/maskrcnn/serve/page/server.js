// Talking to the server: it may be busy, locked or gone.

import { $, wait } from "./dom.js";

const TRIES = 8;
let token = "";

export class Refused extends Error {}

export async function call(path, options = {}) {
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

export function body(photo) {
  const form = new FormData();
  form.append("file", photo.file, photo.name);
  return form;
}
