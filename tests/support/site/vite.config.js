import { defineConfig } from 'vite';

export default defineConfig({
  resolve: { alias: { '@moorline': process.env.MOORLINE_CLIENT } },
});
