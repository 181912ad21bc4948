// What a test file has around it: a directory, places, nodes and loads, all of which end with it.

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Load, Node } from "./node.mjs";
import { Cable, Place } from "./place.mjs";

export class Scene {
  #ends = [];

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), "keel-volumes-"));
  }

  async place(name) {
    const place = await Place.open(name);
    this.#ends.push(() => place.close());
    return place;
  }

  cable(left, right, number) {
    return new Cable(left, right, number);
  }

  node(options) {
    const node = new Node({ directory: this.directory, place: Place.here(), ...options });
    this.#ends.push(() => node.stop());
    return node;
  }

  load(...args) {
    const load = new Load(...args);
    this.#ends.push(() => load.kill());
    return load;
  }

  async close() {
    for (const end of this.#ends.reverse()) await end();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
