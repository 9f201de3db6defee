// Cut-outs, pictures and files to take home, made here from what the server said.

import { $, make, stem, toast } from "./dom.js";
import { dark, desk, place, shown, tint } from "./state.js";

export const blob = (canvas) => new Promise((done, fail) => canvas.toBlob((data) => (data ? done(data) : fail(new Error("too large"))), "image/png"));

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

export async function copy(one) {
  try {
    await navigator.clipboard.write([new ClipboardItem({ "image/png": cutout(desk.photo, one) })]);
    toast("Copied with a transparent background");
  } catch {
    toast("This browser does not let pages copy pictures; download it instead");
  }
}

export const keep = (one) => offer(async (photo) => save(await cutout(photo, one), `${stem(photo.name)}_${one.id}_${one.name.replace(/[^\w-]+/g, "_")}.png`));

async function offer(action) {
  try {
    await action(desk.photo);
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
    categories: desk.model.classes.map((name, i) => ({ id: i + 1, name, supercategory: "" })),
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
