// Methods of the viewer that answer to pointer, wheel and keys.
import { PLANES } from "./view.js";

export const pointing = {
  place(event, pane) {
    const box = this.canvas(pane).getBoundingClientRect();
    const [x, y] = [event.clientX - box.left, event.clientY - box.top];
    const [column, row] = this.viewOf(pane).toPixel(x, y);
    return { pane: pane.id, x, y, column, row };
  },

  onDown(event, pane) {
    const canvas = this.canvas(pane);
    canvas.focus({ preventScroll: true });
    canvas.setPointerCapture(event.pointerId);
    this.active = pane.plane;
    this.pointer = this.place(event, pane);
    const paints = this.tool !== "look" && pane.layer === "labels" && !this.busy;
    if (event.button === 2) this.drag = "window";
    else if (event.button === 1 || event.shiftKey) this.drag = "pan";
    else if (paints) this.beginStroke(pane);
    else this.drag = "crosshair";
    this.onMove(event, pane);
    event.preventDefault();
  },

  onMove(event, pane) {
    const last = this.pointer, here = (this.pointer = this.place(event, pane));
    const [dx, dy] = last ? [here.x - last.x, here.y - last.y] : [0, 0];
    if (this.drag === "pan") this.views[pane.plane].pan(dx, dy);
    else if (this.drag === "window") this.moveWindow(dx, dy);
    else if (this.drag === "crosshair") {
      this.cursor = this.voxel(pane.plane, Math.floor(here.column), Math.floor(here.row));
    } else if (this.stroke) this.continueStroke(event, pane);
    this.read(pane, here);
    this.draw();
  },

  onUp() {
    this.drag = null;
    if (this.stroke) this.endStroke();
  },

  onLeaveCanvas() {
    this.pointer = null;
    this.readout = "";
    this.draw();
  },

  onWheel(event, pane) {
    this.active = pane.plane;
    const lines = event.deltaMode === 1 ? 40 : 1;
    if (event.ctrlKey) {
      const { x, y } = this.place(event, pane);
      this.viewOf(pane).zoomAt(Math.exp((-event.deltaY * lines) / 400), x, y);
      return this.draw();
    }
    this.turned = (this.turned ?? 0) - event.deltaY * lines;
    const steps = Math.trunc(this.turned / 40);
    if (!steps) return;
    this.turned -= steps * 40;
    this.setLevel(pane.plane, this.level(pane.plane) + (Math.abs(event.deltaY) >= 100 ? Math.sign(steps) : steps));
    if (Math.abs(event.deltaY) >= 100) this.turned = 0; // a wheel with notches: a slice a notch
  },

  onKey(event, pane) {
    const control = event.ctrlKey || event.metaKey;
    const level = this.level(pane.plane), view = this.views[pane.plane];
    const actions = {
      ArrowUp: () => this.setLevel(pane.plane, level + 1),
      ArrowRight: () => this.setLevel(pane.plane, level + 1),
      ArrowDown: () => this.setLevel(pane.plane, level - 1),
      ArrowLeft: () => this.setLevel(pane.plane, level - 1),
      PageUp: () => this.setLevel(pane.plane, level + 10),
      PageDown: () => this.setLevel(pane.plane, level - 10),
      Home: () => this.setLevel(pane.plane, 0),
      End: () => this.setLevel(pane.plane, this.count(pane.plane) - 1),
      "+": () => view.zoomAt(1.25, view.width / 2, view.height / 2),
      "-": () => view.zoomAt(0.8, view.width / 2, view.height / 2),
      0: () => this.fit(),
      " ": () => (this.show = this.show === "scan" ? "both" : "scan"),
      o: () => (this.contours = !this.contours),
      "[": () => (this.radius = Math.max(0.5, this.radius - 0.5)),
      "]": () => (this.radius = Math.min(40, this.radius + 0.5)),
      "?": () => (this.help = true),
      ...(this.editable && {
        b: () => (this.tool = "paint"), e: () => (this.tool = "erase"), n: () => (this.tool = "look"),
      }),
      ...Object.fromEntries(this.layouts.map(({ value }, i) => [i + 1, () => (this.layout = value)])),
    };
    const undo = { z: () => this.ask(event.shiftKey ? "redo" : "undo"), y: () => this.ask("redo") };
    const action = control ? this.editable && undo[event.key.toLowerCase()] : actions[event.key];
    if (!action) return;
    event.preventDefault();
    this.active = pane.plane;
    action();
    this.draw();
  },

  moveWindow(dx, dy) {
    const span = this.facts.top - this.facts.low, { min, max } = this.greys;
    const level = (min + max) / 2 - (dy * span) / 800, width = Math.max(span / 500, max - min + (dx * span) / 400);
    this.greys = { min: level - width / 2, max: level + width / 2 };
  },

  resetWindow() { this.greys = { min: this.facts.window[0], max: this.facts.window[1] }; },

  fit() {
    for (const plane of PLANES) this.views[plane].reset();
    this.bones.reset();
    this.draw();
  },

  read(pane, { column, row }) {
    const view = this.views[pane.plane], at = [Math.floor(column), Math.floor(row)];
    if (at.some((n, i) => n < 0 || n >= view.pixels[i])) return (this.readout = "");
    const index = this.voxel(pane.plane, ...at);
    const words = this.world(index).map((v, i) => `${(v < 0 ? "LPI" : "RAS")[i]} ${Math.abs(v).toFixed(1)}`);
    const offset = at[1] * view.pixels[0] + at[0], level = this.level(pane.plane);
    const stored = this.cache.get("image", pane.plane, level)?.[offset];
    const layer = pane.layer === "other" ? "other" : "labels";
    const label = this.cache.get(layer, pane.plane, level)?.[offset];
    const value = stored === undefined ? "" : `value ${+(this.facts.low + stored * this.facts.step).toPrecision(5)}`;
    const name = this.facts.bones.find((bone) => bone.value === label)?.name ?? "";
    this.readout = [`${words.join("  ")} mm`, value, name].filter(Boolean).join("   ·   ");
  },
};
