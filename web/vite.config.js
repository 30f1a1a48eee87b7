import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

/** Modules that the page's own script imports, directly or not, without waiting for anything. */
const ofEveryVisit = new Set();
const findThem = {
  name: 'of-every-visit',
  buildEnd() {
    const walk = (id) => {
      if (ofEveryVisit.has(id)) return;
      ofEveryVisit.add(id);
      for (const next of this.getModuleInfo(id)?.importedIds ?? []) walk(next);
    };
    for (const id of this.getModuleIds()) if (this.getModuleInfo(id)?.isEntry) walk(id);
  },
};

export default defineConfig({
  plugins: [svelte(), findThem],
  build: {
    // One level down: dist itself is kept in git, so that cargo can watch it before anything is built.
    outDir: 'dist/app',
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    // Inlined files would need data: in the content policy.
    assetsInlineLimit: 0,
    rolldownOptions: {
      output: {
        // One file, whatever else needs parts of it: each of a dozen small ones is a question of its own over HTTP/1.1.
        codeSplitting: { groups: [{ name: 'page', test: (id) => ofEveryVisit.has(id) }] },
      },
    },
  },
});
