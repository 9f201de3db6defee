// What the page knows. Photos go to the server once, with a low score; slider, classes, colours and exports work on
// what came back.

export const LOWEST = 0.05;

// photo, chosen and hovered: what is looked at; least: the slider's score
export const desk = {
  model: { name: "", classes: [], colors: [], score: 0.5 }, limits: { bytes: Infinity },
  photo: null, chosen: null, hovered: null, least: 0.5, byClass: false,
};
export const photos = [], off = new Set(); // off: labels that are not shown
export const zoom = { k: 1, x: 0, y: 0 }; // from pixels of the photo to those of the stage

export const tint = (one) => one.dyed ?? (desk.byClass ? desk.model.colors[one.label] ?? one.color : one.color);
export const visible = (photo) => photo.instances.filter((one) => one.score >= desk.least && !off.has(one.label));
export const shown = (photo) => visible(photo).filter((one) => !one.hidden);
export const place = (one) => (one.box[2] - one.box[0]) * (one.box[3] - one.box[1]);

export function summary(photo) {
  const counts = new Map();
  for (const one of visible(photo)) counts.set(one.name, (counts.get(one.name) ?? 0) + 1);
  const said = [...counts].map(([name, n]) => `${n} ${name}`).join(", ");
  return `${photo.name}: ${said || "nothing found at this score"}`;
}

export const dark = (hex) => {
  const [r, g, b] = [1, 3, 5].map((i) => (parseInt(hex.slice(i, i + 2), 16) / 255) ** 2.2);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b < 0.18;
};
