// The report's pictures. BoneView and unpack stand before this in the same script.
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const shown = new Set(data.bones.map((bone) => bone.value));
let plane = data.planes[0];
let at = Object.fromEntries(data.planes.map(({ name, start }) => [name, start]));

function drawSlice() {
  const slice = plane.slices[at[plane.name]], svg = byId("slice"), image = svg.querySelector("image");
  svg.setAttribute("viewBox", `0 0 ${plane.width} ${plane.height}`);
  image.setAttribute("width", plane.width);
  image.setAttribute("height", plane.height);
  image.setAttribute("href", `data:image/jpeg;base64,${slice.image}`);
  byId("contours").replaceChildren(...data.bones.filter(({ value }) => shown.has(value) && slice.paths[value]).map((bone) => {
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", slice.paths[bone.value]);
    path.setAttribute("fill", bone.colour);
    path.setAttribute("stroke", bone.colour);
    return path;
  }));
  byId("number").textContent = `slice ${slice.number}`;
  byId("level").max = plane.slices.length - 1;
  byId("level").value = at[plane.name];
  [".left", ".right"].forEach((edge, i) => (document.querySelector(`.mark${edge}`).textContent = plane.marks[i]));
  for (const button of byId("planes").children) button.setAttribute("aria-pressed", button.textContent === plane.name);
}

function go(level) {
  at[plane.name] = Math.max(0, Math.min(plane.slices.length - 1, level));
  drawSlice();
}

for (const one of data.planes) {
  const button = document.createElement("button");
  button.textContent = one.name;
  button.addEventListener("click", () => { plane = one; drawSlice(); });
  byId("planes").append(button);
}
byId("level").addEventListener("input", (event) => go(+event.target.value));
byId("slice").addEventListener("wheel", (event) => {
  event.preventDefault();
  go(at[plane.name] - Math.sign(event.deltaY));
}, { passive: false });
byId("slice").addEventListener("keydown", (event) => {
  const step = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1, PageUp: 10, PageDown: -10 }[event.key];
  if (!step) return;
  event.preventDefault();
  go(at[plane.name] + step);
});

const view = new BoneView(byId("bones"), data.size);
byId("front").addEventListener("click", () => view.reset());
new ResizeObserver(() => view.draw()).observe(byId("bones"));
for (const box of document.querySelectorAll("td input")) {
  box.disabled = false;
  box.addEventListener("change", () => {
    shown[box.checked ? "add" : "delete"](+box.value);
    drawSlice();
    view.show([...shown]);
  });
}
drawSlice();
for (const { value, rgb, surface } of data.bones) {
  const stream = new Blob([bytes(surface)]).stream().pipeThrough(new DecompressionStream("deflate"));
  view.set(value, unpack(await new Response(stream).arrayBuffer()), rgb);
}
view.fit();
document.body.dataset.ready = "yes"; // for tests
