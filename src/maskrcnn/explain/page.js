"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];

// switches that hide the boxes of one level
for (const button of all("[data-hide]")) {
  button.addEventListener("click", () => {
    const hidden = button.closest("figure").querySelector("svg").classList.toggle("hide-" + button.dataset.hide);
    button.setAttribute("aria-pressed", String(!hidden));
  });
}

// how many boxes are drawn, best first
for (const input of all("[data-best]")) {
  const boxes = all("svg .box", input.closest("figure"));
  input.addEventListener("input", () => {
    boxes.forEach((box, i) => box.classList.toggle("off", i >= Number(input.value)));
    input.nextElementSibling.textContent = input.value;
  });
}

// what lies behind the sampling grids
for (const button of all("[data-layer]").filter((e) => e.tagName === "BUTTON")) {
  button.addEventListener("click", () => {
    for (const figure of all("figure", button.closest("section"))) {
      for (const drawing of all("svg.grid", figure)) drawing.dataset.layer = button.dataset.layer;
      for (const other of all("button[data-layer]", figure)) {
        other.setAttribute("aria-pressed", String(other.dataset.layer === button.dataset.layer));
      }
    }
  });
}

// the value of a cell under the pointer, or where the arrow keys have moved to
for (const heat of all(".heat[data-v]")) {
  const w = Number(heat.dataset.w), h = Number(heat.dataset.h), values = heat.dataset.v.split(" ");
  const output = heat.nextElementSibling.querySelector("output");
  const mark = heat.appendChild(document.createElement("i"));
  let x = 0, y = 0;
  mark.hidden = true;
  const show = () => {
    mark.hidden = false;
    mark.style.cssText = `left:${100 * x / w}%;top:${100 * y / h}%;width:${100 / w}%;height:${100 / h}%`;
    output.textContent = `row ${y}, col ${x}: ${values[y * w + x]}`;
  };
  const clamp = (v, n) => Math.max(0, Math.min(n - 1, v));
  const point = (event) => {
    const box = heat.getBoundingClientRect();
    x = clamp(Math.floor((event.clientX - box.left) / box.width * w), w);
    y = clamp(Math.floor((event.clientY - box.top) / box.height * h), h);
    show();
  };
  heat.addEventListener("pointermove", point);
  heat.addEventListener("pointerdown", point);
  heat.addEventListener("pointerleave", () => { mark.hidden = true; output.textContent = ""; });
  heat.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    x = clamp(x + step[0], w);
    y = clamp(y + step[1], h);
    show();
  });
}

// a row of the table finds its instance
for (const row of all("tr[data-instance]")) {
  const drawings = all("svg.final");
  const pick = (on) => drawings.forEach((drawing) => {
    drawing.classList.toggle("pick", on);
    all("g", drawing).forEach((g) => g.classList.toggle("picked", on && g.dataset.instance === row.dataset.instance));
  });
  row.addEventListener("pointerenter", () => pick(true));
  row.addEventListener("pointerleave", () => pick(false));
}
