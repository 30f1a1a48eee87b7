import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  plugins: [svelte()],
  build: {
    // One level down: dist itself is kept in git, so that cargo can watch it before anything is built.
    outDir: 'dist/app',
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    // Inlined files would need data: in the content policy.
    assetsInlineLimit: 0,
  },
});
