// Ways for a photo to get here: files, drop, paste, camera, or drawn on the spot.

import { $, make, toast } from "./dom.js";
import { blob } from "./exports.js";
import { add } from "./photos.js";

for (const button of document.querySelectorAll("[data-pick]")) button.onclick = () => $("files").click();
for (const input of [$("files"), $("shot")]) input.onchange = () => { add(input.files); input.value = ""; };

let stream = null, taken = 0;
for (const button of document.querySelectorAll("[data-camera]")) {
  button.onclick = async () => {
    if (!navigator.mediaDevices || matchMedia("(pointer: coarse)").matches) return $("shot").click();
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment", width: { ideal: 1920 } } });
    } catch {
      return toast("No camera that this page may use");
    }
    $("lens").querySelector("video").srcObject = stream;
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
    canvas.toBlob((data) => add([new File([data], `camera ${++taken}.jpg`, { type: "image/jpeg" })]), "image/jpeg", 0.95);
  }
  for (const track of stream?.getTracks() ?? []) track.stop();
  video.srcObject = null;
  $("lens").querySelector(".primary").disabled = true;
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

// drop and paste
let over = 0;
const files = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => { if (files(event)) { over += 1; $("veil").hidden = false; } });
addEventListener("dragleave", (event) => { if (files(event)) { over -= 1; $("veil").hidden = over <= 0; } });
addEventListener("dragover", (event) => { if (files(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!files(event)) return;
  event.preventDefault();
  over = 0;
  $("veil").hidden = true;
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => add([...(event.clipboardData?.files ?? [])]));
