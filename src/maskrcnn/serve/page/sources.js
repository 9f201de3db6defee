// Ways for a photo to get here: files, drop, paste, camera, or the sample.

import { $, make, toast } from "./dom.js";
import { blob } from "./exports.js";
import { add } from "./photos.js";
import { call } from "./server.js";

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

// A portrait of the astronaut Eileen Collins by NASA, in the public domain.
$("sample").onclick = async () => {
  try {
    add([new File([await (await call("sample.jpg")).blob()], "sample.jpg", { type: "image/jpeg" })]);
  } catch (error) {
    toast(error.message);
  }
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
